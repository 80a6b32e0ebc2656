"""Published evaluation protocols, shared by families; `run` takes a model through a validation set."""
