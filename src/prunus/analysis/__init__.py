"""What there is to know about a network's masks before and after training."""
