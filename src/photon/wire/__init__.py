"""Bytes between a server and its nodes: messages, payloads, transports, keys."""
