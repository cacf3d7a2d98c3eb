"""How q moves, one algorithm a file; the contract is at the head of run.py."""
