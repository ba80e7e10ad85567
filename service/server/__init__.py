"""The server: the web application, a process that runs it, and the supervisor of several."""
