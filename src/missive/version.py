"""The version of Missive."""

VERSION = "0.9.0"
