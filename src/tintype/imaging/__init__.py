"""What the bytes really are: recognised, walked through, and decoded in a cage; nothing is believed."""
