"""Images for people: contact sheets, epoch grids, curves."""
