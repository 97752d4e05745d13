"""The shared state of an account's batches: paid work, slots, pace, budgets. The engine uses only `account.base`."""
