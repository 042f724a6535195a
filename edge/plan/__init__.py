"""Pure: plans, expressions, labware, geometry, checks and the dry run. Values in, values out."""
