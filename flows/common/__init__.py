"""What flows have in common: opened blocks, a plan that is asked about, batches, events, alarms, and what is shown."""
