"""Images for people: probe images, contact sheets, epoch grids, curves."""
