"""What all batches of one account share: paid work, slots, pace, budgets. The engine uses only `account.base`."""
