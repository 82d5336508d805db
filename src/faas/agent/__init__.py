"""Host side of the agent that is PID 1 in every sandbox."""
