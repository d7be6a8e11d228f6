"""The command line `thumbwheel`: a table of subcommands, each loaded when it is called."""
