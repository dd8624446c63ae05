"""What a user can ask for. One file = one job: a frozen record with `run()`."""
