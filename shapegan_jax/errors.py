"""The one exception that is the user's to mend."""


class UserError(Exception):
  """Bad input: the message is one line that names the thing, the reason and the remedy. Commands exit with code 2."""
