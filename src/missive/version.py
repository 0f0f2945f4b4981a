"""The version of Missive."""

VERSION = "0.1.0"
