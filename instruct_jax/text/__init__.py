"""Text in and out of the models: the tokenizer and the prompt templates."""
