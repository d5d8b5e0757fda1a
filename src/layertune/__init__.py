"""layertune: training-free layer selection for partial fine-tuning of language models."""
