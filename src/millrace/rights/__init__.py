"""Access rights: see, hear, speak, watch, type, control, link, admin. Pure: time and randomness are passed in."""
