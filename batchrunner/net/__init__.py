"""Connections: certificates, proxies."""
