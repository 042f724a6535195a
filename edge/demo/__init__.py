"""`labedge demo`: the reference planner, the bench and cell files it runs on, and what starts them all."""
