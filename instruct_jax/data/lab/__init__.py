"""Home of the lab: a small world with a known truth, its corpus, its users' prompts, its labelers and its gold judge."""
