"""What the studies of supermasks share: how masks are learned in a cell, and what is measured of them."""
