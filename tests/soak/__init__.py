"""Random faults under random load, for as long as one likes: ``python -m tests.soak --minutes 5 --seed 1``."""
