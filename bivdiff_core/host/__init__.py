"""The parts of the method that use ComfyUI: validating inputs, sampling, context windows, model families."""
