"""What a machine has, and what that means for smalti: facts, findings and the line that installs."""
