import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStreamReader;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Base64;
import java.util.List;
import java.util.Properties;
import java.util.concurrent.Future;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.clients.producer.RecordMetadata;
import org.apache.kafka.common.header.Header;
import org.apache.kafka.common.header.internals.RecordHeader;
import org.apache.kafka.common.serialization.ByteArraySerializer;

/**
 * A producer as foreign systems have it: what stands on stdin goes to one topic with the Java client.
 *
 * <p>Arguments: bootstrap servers, topic, then settings of the client as name=value. Each line is a command:
 * "send PARTITION KEY VALUE [NAME=VALUE...]" (tabs between, "-" for no partition or null, keys and values in Base64,
 * at the end the headers), "begin", "flush", "commit", "abort". All but "send" are answered with one line: "done", and
 * after "flush" the partition:offset of each record sent so far. The end of stdin ends the program as a crash would,
 * so that a transaction that was not ended stays open.
 */
public final class Producer {
    private static byte[] bytes(String text) {
        return text.equals("-") ? null : Base64.getDecoder().decode(text.substring(1));
    }

    private static ProducerRecord<byte[], byte[]> record(String topic, String[] words) {
        List<Header> headers = new ArrayList<>();
        for (int at = 4; at < words.length; at++) {
            int sign = words[at].indexOf('=');
            headers.add(new RecordHeader(words[at].substring(0, sign), bytes(words[at].substring(sign + 1))));
        }
        Integer partition = words[1].equals("-") ? null : Integer.valueOf(words[1]);
        return new ProducerRecord<>(topic, partition, bytes(words[2]), bytes(words[3]), headers);
    }

    public static void main(String[] arguments) throws Exception {
        Properties settings = new Properties();
        settings.put("bootstrap.servers", arguments[0]);
        settings.put("acks", "all");
        settings.put("linger.ms", "20");
        for (int at = 2; at < arguments.length; at++) {
            int sign = arguments[at].indexOf('=');
            settings.put(arguments[at].substring(0, sign), arguments[at].substring(sign + 1));
        }
        KafkaProducer<byte[], byte[]> producer =
                new KafkaProducer<>(settings, new ByteArraySerializer(), new ByteArraySerializer());
        if (settings.containsKey("transactional.id")) {
            producer.initTransactions();
        }
        follow(producer, arguments[1]);
        Runtime.getRuntime().halt(0);
    }

    private static void follow(KafkaProducer<byte[], byte[]> producer, String topic) throws Exception {
        BufferedReader lines = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        List<Future<RecordMetadata>> sent = new ArrayList<>();
        for (String line = lines.readLine(); line != null; line = lines.readLine()) {
            String[] words = line.split("\t");
            StringBuilder answer = new StringBuilder("done");
            switch (words[0]) {
                case "send" -> {
                    sent.add(producer.send(record(topic, words)));
                    continue;
                }
                case "begin" -> producer.beginTransaction();
                case "flush" -> {
                    producer.flush();
                    for (Future<RecordMetadata> one : sent) {
                        answer.append('\t').append(one.get().partition()).append(':').append(one.get().offset());
                    }
                    sent.clear();
                }
                case "commit" -> producer.commitTransaction();
                case "abort" -> producer.abortTransaction();
                default -> throw new IOException("no such command: " + words[0]);
            }
            System.out.println(answer);
        }
    }
}
