"""The stages: each wires data, models and algorithms together and exports run(config, workdir)."""
