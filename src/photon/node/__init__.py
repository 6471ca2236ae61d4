"""One site: its clients, the workers that train them, the service that answers a server."""
