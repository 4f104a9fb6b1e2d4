"""Home of the prompt templates: the fixed text around a prompt that tells the model where its answer begins.

The paper feeds prompts as users wrote them; "plain" is that plus the newline at which the answer starts.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Template:
    """Text before and after a prompt; a response ends before `stop`, for a model that was never taught to end one."""

    prefix: str
    suffix: str
    stop: str = ""

    def render(self, prompt: str) -> str:
        """The prompt as the model reads it; the response follows directly."""
        return self.prefix + prompt + self.suffix


TEMPLATES = {
    "plain": Template("", "\n"),
    "instruction": Template("instruction :\n", "\nresponse :\n"),
}
