"""Whether threads can share a model: what its source writes, and what its calls do."""
