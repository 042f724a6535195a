"""The cell at work: PackML machine, runner, one actor a device, stopping, interlocks."""
