"""Steps, devices, processes and files; no method, no modality."""
