"""May I believe this fit? Evidence (arrays) -> checks -> verdict; and the correction by short chains on the same program."""
