"""What a person types: commands, `up` with its embedded servers, sandbox, import, doctor."""
