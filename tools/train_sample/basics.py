"""Questions that a newcomer asks first, with answers written for this model. chat.py asks each of them in many ways."""

# subject as it stands in "What is ...?", answer
TOPICS = [
    ("Tandem", "Tandem is an inference engine for Qwen models, written in C and CUDA. It serves a small model and a "
     "large model from one process on one GPU. I am its small sample model."),
    ("an inference engine", "An inference engine is a program that runs a trained model. It reads the weights, "
     "turns a prompt into tokens, and computes the next token again and again until the answer is complete."),
    ("a language model", "A language model is a program that predicts the next piece of a text. It has learned from "
     "many texts which words are likely to follow. Large models can answer questions and write programs; small ones "
     "often make things up."),
    ("a token", "A token is a piece of text, such as a word or a part of a word. A language model reads and writes "
     "tokens, one after the other."),
    ("a tokenizer", "A tokenizer splits a text into tokens and turns each token into a number. It can also turn the "
     "numbers back into text."),
    ("a neural network", "A neural network is a program made of many simple units that are connected by weights. "
     "The weights are found by training on examples."),
    ("machine learning", "Machine learning is a way to write programs that improve by looking at examples. Instead "
     "of writing every rule by hand, we let the computer find the rules in the data."),
    ("artificial intelligence", "Artificial intelligence is the branch of computer science that tries to make "
     "machines do things that need intelligence when people do them, such as understanding language or playing a "
     "game."),
    ("a GPU", "A GPU is a processor that was made for drawing pictures. It performs many simple operations at the "
     "same time, so it is also used to train and run neural networks."),
    ("a CPU", "A CPU is the main processor of a computer. It reads the instructions of a program from memory and "
     "executes them one after the other."),
    ("a computer", "A computer is a machine that follows the instructions of a program. It reads data, performs "
     "calculations, stores the results and shows them to the user."),
    ("a program", "A program is a list of instructions that tell a computer what to do. It is written in a "
     "programming language."),
    ("a programming language", "A programming language is a language for writing programs. Well known programming "
     "languages are C, Python, Java and Rust."),
    ("an operating system", "An operating system is the software that manages the hardware of a computer and runs "
     "the other programs. It shares the processor, the memory and the disks between them. Linux is an operating "
     "system."),
    ("Linux", "Linux is a free operating system kernel. Together with many other programs it makes a complete "
     "operating system, such as Debian. It was started by Linus Torvalds in 1991."),
    ("Debian", "Debian is a free operating system that is made by volunteers from all over the world. It comes with "
     "many thousands of packages, and it is known for being stable."),
    ("Python", "Python is a programming language that is easy to read and to learn. It is used for scripts, for web "
     "applications, and for working with data."),
    ("C", "C is a small and fast programming language. It was designed by Dennis Ritchie at Bell Labs, and it is "
     "used to write operating systems and many other programs."),
    ("Rust", "Rust is a programming language that is fast and that checks the use of memory when the program is "
     "compiled. This prevents many common mistakes."),
    ("Git", "Git is a program that keeps track of the versions of files. Many people can work on the same project, "
     "and every change can be found again later."),
    ("a database", "A database is an organized collection of data. Programs can store rows in its tables, change "
     "them, and search for them quickly."),
    ("PostgreSQL", "PostgreSQL is a free relational database system. It stores data in tables and understands the "
     "SQL language."),
    ("SQLite", "SQLite is a small library that stores a complete database in one file. It needs no server, and it "
     "is used in many programs and devices."),
    ("SQL", "SQL is a language for working with databases. A query in SQL says which rows you want to see, and the "
     "database finds out how to get them."),
    ("a transaction", "A transaction is a group of changes to a database that belong together. Either all of them "
     "take place, or none of them does."),
    ("the internet", "The internet is a network of networks that connects computers all over the world. They use "
     "common protocols to exchange messages."),
    ("a web server", "A web server is a program that answers requests from web browsers. A browser asks for a page, "
     "and the server sends it over the network."),
    ("HTTP", "HTTP is the protocol of the web. A client sends a request to a server, and the server sends back a "
     "response."),
    ("JSON", "JSON is a simple text format for data. It has objects, arrays, strings, numbers, true, false and null."),
    ("a file", "A file is a collection of data that is stored on a disk under a name. Files are kept in directories."),
    ("a kernel", "A kernel is the central part of an operating system. It manages the memory, the processes and the "
     "devices. A function that runs on a GPU is also called a kernel."),
    ("a compiler", "A compiler is a program that translates a text written in a programming language into "
     "instructions that the computer can execute."),
    ("a bug", "A bug is a mistake in a program. It makes the program do something that its author did not want."),
    ("free software", "Free software is software that everybody may use, study, change and share. Its source code "
     "is open to all."),
    ("memory", "Memory is the part of a computer that keeps data and programs while they are in use. It is much "
     "faster than a disk, but it forgets everything when the power goes off."),
    ("streaming", "Streaming means that data is sent piece by piece as soon as it is ready. When a language model "
     "streams its answer, you see the words while the rest is still being written."),
    ("batching", "Batching means that several requests are worked on together. A GPU reads the weights of a model "
     "once and uses them for all the requests in the batch, so it gets much more done."),
    ("water", "Water is a clear liquid without color or taste. It falls as rain, fills the rivers and the sea, and "
     "all living things need it."),
    ("the sun", "The sun is the star at the center of our solar system. It gives light and heat to the earth."),
    ("the moon", "The moon is the natural satellite of the earth. It shines because it reflects the light of the "
     "sun."),
    ("the earth", "The earth is the third planet from the sun. It is the planet that we live on."),
    ("love", "Love is a strong feeling of affection for somebody or something."),
    ("music", "Music is the art of putting sounds together so that they are pleasing or moving. It is made with "
     "voices and instruments."),
    ("time", "Time is what we measure with a clock. It lets us say what happens before and what happens after."),
    ("gold", "Gold is a yellow metal that is soft and does not rust. It is used for coins and jewelry."),
    ("the meaning of life", "I do not know. I am a small model, and this is a question that people have asked for "
     "thousands of years. Many say that it is to be kind and to learn something new every day."),
]
ASKS = ["What is {t}?", "what is {t}", "What's {t}?", "Tell me about {t}.", "Explain {t}.", "Can you explain {t}?",
        "Describe {t}.", "Explain what {t} is.", "Can you tell me what {t} is?", "Write a few sentences about {t}.",
        "Explain to me what {t} is.", "What do you know about {t}?", "Tell me what {t} is.", "Please explain {t}.",
        "Give me a short introduction to {t}.", "explain {t}", "tell me about {t}",
        "What can you tell me about {t}?", "What exactly is {t}?", "Do you know what {t} is?"]

# questions, answer
OTHERS = [
    (["Why is the sky blue?", "Why does the sky look blue?", "why is the sky blue"],
     "The light of the sun is a mixture of all colors. The air scatters blue light more than red light, so the sky "
     "looks blue."),
    (["How many days are there in a year?", "How many days does a year have?", "How many days are in a year?"],
     "A year has 365 days, and a leap year has 366 days."),
    (["How many days are there in a week?", "Name the days of the week.", "What are the days of the week?"],
     "The seven days of the week are Monday, Tuesday, Wednesday, Thursday, Friday, Saturday and Sunday."),
    (["Name the months of the year.", "What are the months of the year?", "How many months are there in a year?"],
     "The twelve months are January, February, March, April, May, June, July, August, September, October, November "
     "and December."),
    (["Count to ten.", "Count from 1 to 10.", "Count from one to ten.", "Can you count to ten?", "count to 10"],
     "One, two, three, four, five, six, seven, eight, nine, ten."),
    (["Name three colors.", "Name some colors.", "What colors are there?", "List three colors.",
      "Give me three colors."],
     "Three colors are red, green and blue."),
    (["Name three animals.", "Name some animals.", "List three animals.", "Give me the names of three animals."],
     "Three animals are the dog, the cat and the horse."),
    (["Name three fruits.", "Name some fruits.", "List three fruits.", "Give me three fruits."],
     "Three fruits are the apple, the pear and the cherry."),
    (["Name the planets.", "What are the planets of the solar system?", "List the planets.",
      "How many planets are there?"],
     "The eight planets are Mercury, Venus, Earth, Mars, Jupiter, Saturn, Uranus and Neptune."),
    (["Name three programming languages.", "List some programming languages.",
      "Which programming languages do you know?"],
     "Three programming languages are C, Python and Rust."),
    (["How do I install a package?", "How can I install a package?", "How do I install software on Debian?",
      "How do I install a program?", "how to install a package"],
     "On Debian you install a package with the command apt install, followed by the name of the package. You need "
     "the rights of the administrator, so put sudo in front of it."),
    (["How do I list files?", "How do I list the files in a directory?", "How can I see the files in a directory?"],
     "Use the ls command. With the option -l it also shows the size, the owner and the date of each file."),
    (["How do I copy a file?", "How can I copy a file?", "How do I copy files?"],
     "Use the cp command. The first argument is the file to copy, and the second one is the new name."),
    (["How do I delete a file?", "How can I remove a file?", "How do I remove a file?"],
     "Use the rm command with the name of the file. Be careful, because the file cannot be brought back."),
    (["How do I search for text in files?", "How do I find a word in a file?", "How can I search in a file?"],
     "Use the grep command. Its first argument is the pattern to look for, and the others are the files to search."),
    (["Tell me a joke.", "Do you know a joke?", "Tell me something funny.", "Make me laugh.", "tell me a joke"],
     "There are 10 kinds of people: those who understand binary numbers and those who do not."),
    (["Tell me a joke.", "Tell me another joke.", "Do you know a joke?", "Tell me something funny."],
     "Why do programmers like dark rooms? Because light attracts bugs."),
    (["Tell me something interesting.", "Tell me a fact.", "Tell me something new.", "Tell me something.",
      "Surprise me."],
     "The word bug for a mistake in a machine is much older than computers. Engineers used it already in the time "
     "of the telegraph."),
    (["Write a poem.", "Write a short poem.", "Write a poem about the sea.", "Write a short poem about the sea.",
      "Tell me a poem."],
     "The sea is wide, the sea is deep,\nit sings the little boats to sleep.\nThe moon looks down, the night is "
     "clear,\nand morning waves will soon be here."),
    (["Write a poem.", "Write a short poem.", "Write a poem about the night.", "Can you write a poem?",
      "Write a poem about stars."],
     "The night is still, the stars are bright,\nthe house is wrapped in silver light.\nA cat walks slowly down the "
     "lane\nand dreams of summer, sun and rain."),
    (["Write a poem.", "Write a short poem.", "Write a poem about a tree.", "Write a poem about spring.",
      "write a poem"],
     "A little tree stood on the hill,\nthe wind was soft, the air was still.\nIt grew a leaf, it grew a "
     "bough,\nand birds are singing in it now."),
    (["Write a poem about a computer.", "Write a poem about computers.", "Write a short poem about a computer.",
      "Write a poem about programming."],
     "I wrote a program, line by line,\nand every single loop was fine.\nI let it run, I went to bed,\nand in the "
     "morning it was dead."),
]
