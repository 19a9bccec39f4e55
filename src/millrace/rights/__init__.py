"""Who may do what: see, hear, speak, control. Pure: time and randomness are arguments."""
