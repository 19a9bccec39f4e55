"""The HTTP server: API, WebSockets and page."""
