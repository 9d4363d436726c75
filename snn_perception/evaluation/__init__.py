"""What a detector is worth: scores by the field's protocols, cost figures, and the conditions they hold under."""
