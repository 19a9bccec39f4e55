"""Access rights: see, hear, speak, watch, type, clipboard, control, link, admin. Pure: times are arguments."""
