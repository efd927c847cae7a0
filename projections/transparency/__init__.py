"""The transparency log: how it lies in objects, the job that writes it, and what is read of it."""
