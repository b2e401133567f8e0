"""What ``models.receptive_field`` is made of: rules that merge boxes, a table of operators, and the tracker."""
