"""The session manager: which sink, how loud, and who may record. It uses only the public API, and can be replaced."""
