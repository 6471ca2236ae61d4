"""The ladder of compression: codecs below 16 bits, as pure functions of one tensor."""
