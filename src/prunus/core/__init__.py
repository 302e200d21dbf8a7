"""What every method stands on: masks, prunable parameters, selection, allocation, schedules, holding a mask."""
