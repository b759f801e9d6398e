"""Thin Ray classes that hold a visvm object on a device; no algorithm lives here."""
