# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""The entry point by which vLLM learns of SALMONN: it calls it in each of its processes, before a model is looked for."""


def register() -> None:
    """Makes `vllm serve FOLDER` and `vllm.LLM` take the folders of this project, without `trust_remote_code`."""
    # Importing it tells Transformers' Auto classes about SALMONN.
    import salmonn_transformers  # noqa: F401
    from data_salmonn.extras import needs_extra

    with needs_extra("vllm"):
        from vllm import ModelRegistry

    # by its name: a process that loads no model need not import it
    ModelRegistry.register_model("SalmonnForConditionalGeneration", "serving_salmonn.vllm_model:VllmSalmonn")
