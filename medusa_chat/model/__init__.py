"""The base model, its Medusa heads and their KV cache, as plain tensors in and out."""
