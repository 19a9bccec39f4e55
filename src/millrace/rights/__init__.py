"""Who may see, hear, speak, control what. Pure: time and randomness are arguments."""
