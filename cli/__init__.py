"""The command line, installed as ``geouq.cli``: each verb parses, calls one function, prints."""
