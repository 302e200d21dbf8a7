"""What the studies of pruning at initialization share: how masks are found, and what is measured of them."""
