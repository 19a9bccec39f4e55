"""The session manager: who plays where, how loud, and who may. It uses the public API alone, and can be replaced."""
