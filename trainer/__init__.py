"""The trainer: reads the token shards that the pipeline wrote, trains a Llama-style model and probes it.

It stands apart from the pipeline: it is launched (`python -m trainer.launch`), never imported, except for
`trainer.config`, which loads without torch so that a manifest is checked before any work starts.
"""
