"""What is asked for: probes, and the pictures that are made of them."""
