"""What flows: formats, parameters, packets; one type each."""
